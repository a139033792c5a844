"""What a run tells the outside: metric writers, tables and plots."""
