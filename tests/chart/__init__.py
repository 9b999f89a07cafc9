"""The Helm chart: its templates, what an API server says of them, and the images it names."""
