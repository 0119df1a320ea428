"""The laws that mixer-ir keeps, in folders that mirror the four packages."""
