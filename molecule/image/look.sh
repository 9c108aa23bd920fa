#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
# Runs in the image and says what of it works.
set -e
cd /tmp
echo "user $(id -u) $(id -g)"
echo "cozy-stack $(cozy-stack version)"
printf '%%!PS\n/Helvetica findfont 40 scalefont setfont 50 600 moveto (Hello) show showpage\n' > page.ps
gs -q -sDEVICE=pdfwrite -dNOPAUSE -dBATCH -dSAFER -sOutputFile=page.pdf page.ps
echo '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9" fill="red"/></svg>' > red.svg
echo "pdf $(convert - -format '%m of %n' info:- < page.pdf)"
echo "svg $(convert - -crop 1x1+4+4 -depth 8 -format '%[hex:p{0,0}]' info:- < red.svg)"
convert - ps.png < page.ps 2> /dev/null && echo "ps read" || echo "ps refused"
echo "font $(convert -size 9x9 null: -font Lato-Regular -annotate +0+0 AM png:- 2> fonts | head -c 4 | tail -c 3) $(wc -l < fonts)"
echo 'console.log("node", process.version.split(".")[0])' > index.js
env -i /usr/local/bin/konnector-node-run.sh /tmp
git --version | cut -d . -f 1
