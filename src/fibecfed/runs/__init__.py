"""Runs in a directory of their own: begun, gone on with, evaluated again, predicted with, estimated before."""
