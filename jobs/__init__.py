"""The stages as work for a cluster: plan, shards, worker, receipts."""
