"""Reads datasets: their pictures, masks, class tables and splits; also pictures and volumes outside a dataset."""
