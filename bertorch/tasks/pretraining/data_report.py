"""Statistics of document sets, before training."""

from loguru import logger

from bertorch.data.report import Report, lengths_of, named, shown, warn_of_unknown
from bertorch.tasks.pretraining.rows import Documents


def report_documents(sets: dict[str, Documents]) -> Report:
    """Report each set's documents, sentences, texts and their lengths, unknown tokens, and cut sentences."""
    report: Report = {}
    for name, documents in sets.items():
        lengths = lengths_of(documents.row_lengths, (10, 50, 90))
        listed = shown({name: length for name, length in lengths.items() if name != "longest"})
        logger.info(
            f"{name}: {documents.text_documents[-1] + 1} documents, {len(documents.sentence_starts) - 1} sentences, "
            f"{len(documents)} texts, {len(documents.input_ids)} tokens ({listed} a text), "
            f"{documents.unknown / len(documents.input_ids):.2%} unknown, {documents.divided} sentences cut at the length"
        )
        warn_of_unknown(name, documents.unknown / len(documents.input_ids))
        report[name] = {
            "figures": {
                "documents": int(documents.text_documents[-1]) + 1,
                "sentences": len(documents.sentence_starts) - 1,
                "texts": len(documents),
                "tokens": len(documents.input_ids),
                **named(lengths, "tokens_of_a_text"),
                "unknown_share": documents.unknown / len(documents.input_ids),
                "sentences_cut": documents.divided,
            }
        }
    return report
