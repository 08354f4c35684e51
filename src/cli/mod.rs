//! Command line: one subcommand per file.
