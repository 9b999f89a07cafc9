"""The control plane: reconciles FeedbackIteration resources into Jobs and a serving Deployment."""
