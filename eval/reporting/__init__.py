"""What eval/report.py is made of: finding results, pairing them, words and pictures, the page."""
