"""Everything in which models differ, one file a family behind one protocol; pictures as they arrive. Knows storage."""
