"""What kills, hostile bytes and long runs do to gsd."""
