###-begin-pm2-completion-###
# bash completion for pm2rs and pm2
_pm2rs_completion() {
  local IFS=$'\n'
  COMPREPLY=($(COMP_CWORD="$COMP_CWORD" COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" \
    "${COMP_WORDS[0]}" completion -- "${COMP_WORDS[@]}" 2>/dev/null))
  if [ ${#COMPREPLY[@]} -eq 0 ]; then
    compopt -o default 2>/dev/null
  fi
}
complete -F _pm2rs_completion pm2rs pm2
###-end-pm2-completion-###
