"""The commands, a module for each subject: what is asked for, then who does it."""
