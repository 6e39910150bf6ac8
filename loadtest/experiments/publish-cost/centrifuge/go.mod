module centrifuge-publish

go 1.26

require github.com/centrifugal/centrifuge v0.40.1
