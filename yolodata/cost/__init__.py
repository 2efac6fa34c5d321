"""What training costs: hours and money, from what was measured and a user's prices."""
