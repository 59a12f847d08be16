"""Operations without parameters."""
