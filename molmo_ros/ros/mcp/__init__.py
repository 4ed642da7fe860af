"""The node as tools for an agent, by the Model Context Protocol.

Everything goes through the services, the action and the topics of a running node, as any other client's do:
what limits and policy stop there, no tool can reach.
"""
