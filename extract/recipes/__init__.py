"""Recipe files (TOML) that come with the program."""
