"""What ``qi bench`` measures. Unlike the scripts in a checkout's ``benchmarks/`` it comes with the wheel."""
