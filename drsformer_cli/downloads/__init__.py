"""Published models and metric parameters: where they are, how they are downloaded, and their cache."""
