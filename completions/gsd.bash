_gsd_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _GSD_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _gsd_completion gsd
