#compdef wkctl
# Completion of wkctl for zsh. What is possible comes from wkctl itself, which asks the supervisor when one runs.
_wkctl() {
    local -a lines names open
    local line
    lines=("${(@f)$(${(Q)~words[1]} complete -- "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    if [[ $lines[1] == :directories ]]; then
        _files -/
        return
    fi
    for line in $lines; do
        [[ -n $line ]] || continue
        if [[ ${line%%$'\t'*} == *= ]]; then
            open+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        else
            names+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( $#open )) && _describe -V wkctl open -S ''
    (( $#names )) && _describe -V wkctl names
}
if [[ $funcstack[1] == _wkctl ]]; then
    _wkctl "$@"
else
    compdef _wkctl wkctl
fi
