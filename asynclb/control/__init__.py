"""The one writer: turns configurations and health into tables, and tables into what datapaths execute."""
