"""Download of datasets: table of datasets, transfer and archives."""
