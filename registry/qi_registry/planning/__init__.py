"""What a run would need and how long it would take, by arithmetic: nothing is built, no GPU is asked."""
