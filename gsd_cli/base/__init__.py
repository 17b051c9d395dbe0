"""The foundation: errors, the console, files, downloads, signals. No torch."""
