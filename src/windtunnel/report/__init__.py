"""What people see: terminal tables, progress, the one-file HTML report. Reads plain data only."""
