"""Export of a model as a MONAI Bundle, which MONAI Label, MONAI Deploy and the MONAI command line run without medhybrid."""
