"""Objects of COCO's 80 classes in words and in pictures, as CHAIR and what followed it have them."""
