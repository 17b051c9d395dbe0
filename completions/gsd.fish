function _gsd_completion
    # fish replaces the whole word: what follows --teacher= comes back with it
    set -l sign (string match -r -- '^--[^=]+=' (commandline -ct))
    env _GSD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd \
        | string replace -r -- '^' "$sign"
end

complete --command gsd --no-files --arguments "(_gsd_completion)" --condition \
    "env _GSD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd"
