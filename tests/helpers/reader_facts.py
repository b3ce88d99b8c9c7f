"""Who was born where."""

NAMES = ["Anna", "Boris", "Clara", "Doris", "Emil", "Frida", "Gustav", "Hanna", "Ivan", "Julia", "Karl"]
TOWNS = ["Rome", "Oslo", "Lima", "Cairo", "Paris", "Quito", "Delhi", "Tunis", "Berlin", "Dakar", "Seoul"]
