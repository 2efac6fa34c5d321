"""Metrics of a training run for Prometheus.

destination   where they are served or written: the setting `yolodata.metrics`
catalogue     their names, kinds, units and meanings
totals        counters that go on where they were when a run resumes
levels        what is read off the machine and the process at a scrape
gpu           what is read off the GPU, where no dcgm-exporter does
exposition    the catalogue and its values as Prometheus reads them
exporter      one rank's metrics: what feeds them, and how they are delivered
"""
