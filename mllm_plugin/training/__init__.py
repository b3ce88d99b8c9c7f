"""Training of level encoders, rankers and the leaf ranker; needs torch, and nothing else imports it."""
