"""Between the command line and a program: options, what it says, signals."""
