"""Trains level encoders and rankers: how a walk finds its way down."""
