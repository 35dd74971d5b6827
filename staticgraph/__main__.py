"""`python -m staticgraph`, and what the `staticgraph` script calls."""

from staticgraph.cli.commands import program


def main() -> None:
    """Run the command line."""
    program()


if __name__ == "__main__":
    main()
