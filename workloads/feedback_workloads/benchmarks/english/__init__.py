"""English words as the published scorers have them: NLTK's tokens and parts of speech, WordNet's lemmas, singulars."""
