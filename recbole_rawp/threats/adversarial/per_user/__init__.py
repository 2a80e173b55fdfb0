"""What is an attack with one move for each user?  Only `scope`, its entry, needs RecBole."""
