"""Reads files as samples: pictures, masks, class tables, and one module per dataset layout."""
