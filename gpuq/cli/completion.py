"""gpuq completion: a shell script with every verb and option written into it, so that completing starts no Python."""

from __future__ import annotations

import click

from gpuq.cli.command import command
from gpuq.cli.invoke import load
from gpuq.cli.main import ALIASES, VERBS


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes gpuq's verbs and options in SHELL.

    \b
    bash:  gpuq completion bash > ~/.local/share/bash-completion/completions/gpuq
    zsh:   gpuq completion zsh > ~/.zfunc/_gpuq      (with ~/.zfunc in fpath)
    fish:  gpuq completion fish > ~/.config/fish/completions/gpuq.fish
    """
    click.echo({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](), nl=False)


class _Option:
    def __init__(self, option: click.Option) -> None:
        self.names = [*option.opts, *option.secondary_opts]
        self.takes_value = not option.is_flag and not option.count
        self.choices = list(option.type.choices) if isinstance(option.type, click.Choice) else []
        self.help = (option.help or "").split(". ")[0].rstrip(".")


def _options() -> dict[str, list[_Option]]:
    """Each verb's visible options, aliases included."""
    found = {name: _options_of(load(verb.command)) for name, verb in VERBS.items()}
    return found | {alias: found[name] for alias, name in ALIASES.items()}


def _options_of(command: click.Command) -> list[_Option]:
    """Its own and those of its subcommands."""
    found: dict[str, _Option] = {}
    for each in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        params = each.get_params(click.Context(each))
        for param in params:
            if isinstance(param, click.Option) and not param.hidden:
                found.setdefault(param.opts[0], _Option(param))
    return list(found.values())


def _subcommands() -> dict[str, list[str]]:
    """Of the verbs that have any, such as `token`."""
    commands = {name: load(verb.command) for name, verb in VERBS.items()}
    return {name: sorted(found.commands) for name, found in commands.items() if isinstance(found, click.Group)}


def _bash() -> str:
    named = {verb: " ".join(words) for verb, words in _subcommands().items()}
    lines = [
        "# bash completion for gpuq",
        "_gpuq() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" verb="${COMP_WORDS[1]}" options="" valued="" at',
        "    COMPREPLY=()",
        "    if ((COMP_CWORD == 1)); then",
        f'        COMPREPLY=($(compgen -W "{" ".join([*VERBS, *ALIASES])} --help --version" -- "$word"))',
        "        return",
        "    fi",
        '    case "$verb" in',
    ]
    for verb, options in _options().items():
        names = " ".join(name for option in options for name in option.names)
        valued = " ".join(name for option in options if option.takes_value for name in option.names)
        lines.append(f'        {verb}) options="{names}"; valued=" {valued} " ;;')
    lines += [
        "    esac",
        '    if [[ "$verb" == submit || "$verb" == run ]]; then',
        "        # From the first word that is no option on, it is the job's command: files and programs.",
        "        for ((at = 2; at < COMP_CWORD; at++)); do",
        '            case "${COMP_WORDS[at]}" in',
        '                -*) [[ "$valued" == *" ${COMP_WORDS[at]} "* ]] && ((at++)) ;;',
        "                *) return ;;",
        "            esac",
        "        done",
        "    fi",
        '    if [[ "$word" == -* ]]; then',
        '        COMPREPLY=($(compgen -W "$options" -- "$word"))',
        "    elif ((COMP_CWORD == 2)); then",
        '        case "$verb" in',
        *(f'            {verb}) COMPREPLY=($(compgen -W "{words}" -- "$word")) ;;' for verb, words in named.items()),
        "        esac",
        "    fi",
        "}",
        "complete -o default -F _gpuq gpuq gpuq.pyz",
    ]
    return "\n".join(lines) + "\n"


def _zsh() -> str:
    named = _subcommands()
    verbs = [f"        '{name}:{_quoted(verb.help)}'" for name, verb in VERBS.items()]
    lines = [
        "#compdef gpuq gpuq.pyz",
        "_gpuq() {",
        "    local -a verbs=(",
        *verbs,
        "    )",
        "    if ((CURRENT == 2)); then",
        "        _describe verb verbs",
        "        return",
        "    fi",
        '    local verb="${words[2]}"',
        "    shift words",
        "    ((CURRENT--))",
        '    case "$verb" in',
    ]
    for verb, options in _options().items():
        stops = "'*::command:_normal'" if verb in ("submit", "run") else "'*:argument:_files'"
        if verb in named:
            stops = f"'1:command:({' '.join(named[verb])})' {stops}"
        lines.append(f"        {verb}) _arguments {' '.join(map(_zsh_option, options))} {stops} ;;")
    lines += ["    esac", "}", '_gpuq "$@"']
    return "\n".join(lines) + "\n"


def _zsh_option(option: _Option) -> str:
    value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
    names = option.names[0] if len(option.names) == 1 else "{" + ",".join(option.names) + "}"
    text = f"'[{_quoted(option.help)}]{value if option.takes_value else ''}'"
    return names + text


def _quoted(text: str) -> str:
    """Safe in single quotes, and within the [] and : of zsh's specifications."""
    return text.replace("'", "").replace("[", "(").replace("]", ")").replace(":", " -").replace("\n", " ")


def _fish() -> str:
    lines = ["# fish completion for gpuq"]
    for name, verb in VERBS.items():
        lines.append(f"complete -c gpuq -n __fish_use_subcommand -f -a {name} -d '{_quoted(verb.help)}'")
    for name, words in _subcommands().items():
        lines.append(f"complete -c gpuq -n '__fish_seen_subcommand_from {name}' -f -a '{' '.join(words)}'")
    for name, options in _options().items():
        for option in options:
            words = [f"complete -c gpuq -n '__fish_seen_subcommand_from {name}'"]
            words += [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
            words += ["-r"] if option.takes_value else []
            words += [f"-a '{' '.join(option.choices)}'"] if option.choices else []
            lines.append(" ".join([*words, f"-d '{_quoted(option.help)}'"]))
    return "\n".join(lines) + "\n"
