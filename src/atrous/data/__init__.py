"""From files to samples: pictures, masks, class tables and one file per dataset layout."""
