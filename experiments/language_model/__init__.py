"""A small language model: trained, distilled, sampled from and tuned for a reward."""
