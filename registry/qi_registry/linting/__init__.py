"""What is wrong with data, before a run: ``qi data lint``. A rule is a class that sees listings and then says what it
found."""
