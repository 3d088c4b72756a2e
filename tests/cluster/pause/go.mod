module heddle.test/pause

go 1.21
