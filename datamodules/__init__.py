"""What is read: one data module for every stage."""

from datamodules.skeleton import SkeletonDataModule

__all__ = ["SkeletonDataModule"]
