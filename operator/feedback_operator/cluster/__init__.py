"""Where iterations live and Jobs run. The two places, kubernetes/ and local/, do not know each other."""
