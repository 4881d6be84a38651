"""How anything of gpuq talks to a controller: http for people's commands, aio for agents and the dashboard."""
