###-begin-pm2-completion-###
# fish completion for pm2rs and pm2
function __pm2rs_completion
    set -l typed (commandline -opc) (commandline -ct)
    set -lx COMP_CWORD (math (count $typed) - 1)
    $typed[1] completion -- $typed 2>/dev/null
end
complete -c pm2rs -a '(__pm2rs_completion)'
complete -c pm2 -a '(__pm2rs_completion)'
###-end-pm2-completion-###
