"""The paper's experiments with residual and plain networks, made with the train stage."""
