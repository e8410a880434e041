"""Run folders of trainings: their data, records and models, and the setup of a training."""
