"""Published models and metric parameters: tables, downloads and cache."""
