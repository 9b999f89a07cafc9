"""A real node on this machine: containerd, kubelet and kube-proxy, in namespaces of their own."""
