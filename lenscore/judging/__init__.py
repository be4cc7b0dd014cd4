"""Whether the words of a lens fit a patch, in three layers. Each imports only the layers above it in this list.

- Questions, the files of this folder: which patches (`patches`, `norm_outliers`), which words (`candidates`), how both
  are shown (`questions`, `question_pictures`, `prompts`), and how a reply is read (`replies`).
- `spending`: prices, the terms of a run, and money reserved from its budget. The ledger itself is in `storage_layouts`.
- `judges`: who answers; one file for each kind, registered in `judges/__init__.py`.

The path of one paid question: `questions.ask` makes it; `judges.asking` looks it up in the ledger (`judges.books`),
reserves its worst case and records it as sent (`spending.budget_hold`), sends it (`judges.api`, `judges.connection`),
records the reply before reading it, and settles the cost (`judges.books`).
"""
