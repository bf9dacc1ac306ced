"""The tools that come with the lab, what they show, and the rules that make a tool ask first."""
