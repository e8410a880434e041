"""Pictures and views for people."""
